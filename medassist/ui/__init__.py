"""The page: three tabs over the services. Only this package and `app.py` import gradio.

python app.py
"""
